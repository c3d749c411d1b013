"""What a module holds of its whole parameters, where ranks share them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from brigade.mesh import Cut


class CutModule(nn.Module):
    """`cuts`: for each own parameter that is a share of a whole one, which share. What is not named is held whole by every rank.
    Weights are read and cut by it (`GPTModel.cuts`)."""

    cuts: Mapping[str, Cut] = {}
