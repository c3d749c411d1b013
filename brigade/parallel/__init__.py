"""How a model is computed by several processes: who they are, what they say to each other, and what happens when one of them is
gone.

Read in this order: `rendezvous` (which ranks there are), `memory` and `board` (what the ranks of one host share), `collectives`
(what ranks say to each other), `watch` (who notices that a rank is gone), `launch` (how ranks begin and end).
"""
