"""Keys of stages: a run of an older version goes on where it was, so no change may alter them."""

from pathlib import Path

import pytest

from compress.data import Data, Pairs
from compress.recipe import load
from compress.run.keys import keys

RECIPES = Path(__file__).parents[1] / "recipes"
AT_80B2892 = {
    "ddnet_dense": "e428e05f 1f419302 b3598e93 a8ed102e",
    "ddnet_struct60_asp": "230f344c 6afa6924 36202125 eef76a99 71b58458 c821bc71 e8c70510 73d1aaa8 "
    "e16a429e",
    "ddnet_struct60_gpu": "3041a8fc cec5d9dc 4824a3e1 5b9a29ab 10fca22f b41ba8a3 a7e470b9 5af4e559",
    "redcnn_struct50_24": "37b85189 9d48547f a4580d1a b41c0845 1c72353b 1bb12dbe 96aebd23 89515f52",
    "smoke": "8d1bf4eb c1331872 86b42477 b04cae6c f51ac31f 0c0d1e69 685ac2fc f8d9e6bd",
    "sweep_amount": "c612c92a 1d6ec69d 5f63878b 8d484533 b803cea4",
    "sweep_amount_gpu": "d633c65f debc7365 b4f2f0e2 2a14b2ca",
    "sweep_hybrid": "063dc34d 018dc61e b4745a3d 10ea8483 bb9597bf",
    "sweep_sparse24_gpu": "d633c65f 392449ec 921aff7f cf809659 f711b310 cf0a740f 5e7480ee",
}
"""The first eight digits of each stage's key at commit 80b2892, with `DATA`; those behind the
`baseline` of ddnet_struct60_asp are younger."""
NONE = Pairs(low=(), full=(), names=(), patients=())
DATA = Data(train=NONE, test=NONE, source="demo", fingerprint="0" * 64)


@pytest.mark.parametrize("name", AT_80B2892)
def test_keys_of_shipped_recipes_are_those_of_80b2892(name):
    found = keys(load(RECIPES / f"{name}.yaml"), DATA)
    assert " ".join(key[:8] for key in found) == AT_80B2892[name]
