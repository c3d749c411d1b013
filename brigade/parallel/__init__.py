"""How a model is computed by several processes: who they are, what they say to each other, and what happens when one of them is
gone.

Read in this order. What a step is: `degrees` (which layouts a model can have), `messages` (what the leader orders), `stage` (a
rank's part of a step), `leader` (the leader's). How ranks talk: `setup` (what all of them know), `memory` and `board` (what those
of one host share), `collectives` (every exchange and stream there is), `links` (what each stream is for). How they live: `cores`
and `rendezvous` (which ranks there are, and on which processors), `launch` (how they begin and end), `watch` (who notices that one
is gone).
"""
