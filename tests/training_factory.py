"""A training small enough for tests."""

import numpy as np

from hipqct.augment import Ranges
from hipqct.network import PAPER
from hipqct.recipe import Recipe
from hipqct.solid import surface_distance_um
from hipqct.train import Crop, get_state, set_state, start_model, train_vnet

NEVER = Ranges(**{name: (0.0, drawn[1]) for name, drawn in vars(Ranges()).items()})
RECIPE = Recipe(
    network=PAPER | {"filters": (4, 4), "encoder_convolutions": (1, 2), "decoder_convolutions": (2,)},
    window=(32, 32, 8),
    patch=(32, 32, 8),
    learning_rate=0.03,
    final_learning_rate=0.003,
    steps=30,
    steps_per_epoch=10,
    ranges=NEVER,
)


def make_crops(count: int) -> list[Crop]:
    """Bright balls in darkness: the femur of a machine with little time."""
    rng = np.random.default_rng(0)
    crops = []
    for i in range(count):
        x, y, z = np.meshgrid(
            *(np.arange(n) * mm for n, mm in ((40, 0.8), (40, 0.8), (12, 3.0))), indexing="ij"
        )
        centre = rng.uniform(12, 20, 3)
        mask = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 < 10**2
        ct = np.where(mask, 600, 0) + rng.normal(0, 50, mask.shape)
        distance_um = surface_distance_um(mask, (0.8, 0.8, 3.0))
        crops.append(Crop(f"ball{i}", ct.astype(np.int16), mask, distance_um))
    return crops


CROPS = make_crops(4)
TIMED = ("seconds", "waiting_share")


def train(recipe=RECIPE, steps=None, state=None, first_step=0, minutes=10.0):
    """Train and return the model, the rows of its history and the states at each epoch."""
    model, rows, states = start_model(recipe), [], {}
    if state is not None:
        set_state(model, state)

    def on_epoch(step, row):
        rows.append({name: value for name, value in row.items() if name not in TIMED})
        states[step] = get_state(model)

    train_vnet(model, CROPS[:3], {"validation": CROPS[3:]}, recipe, on_epoch, first_step, minutes)
    return model, rows, states
