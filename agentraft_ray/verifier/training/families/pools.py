"""Entities that items are made of, in pools that share none: what a verifier is tested on it has not met."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PLAIN", "POOLS", "SHOTS", "TEST", "TRAIN", "Pool"]


@dataclass(frozen=True, slots=True)
class Pool:
    """The entities of one split, by kind."""

    name: str
    names: tuple[str, ...]
    cities: tuple[str, ...]
    goods: tuple[str, ...]
    acts: tuple[str, ...]
    firms: tuple[str, ...]
    things: tuple[str, ...]


def _pool(name: str, **kinds: str) -> Pool:
    return Pool(name, **{kind: tuple(words.split()) for kind, words in kinds.items()})


TRAIN = _pool(
    "train",
    names=(
        "Aaron Amina Anton Bella Boris Clara Dario Diana Edgar Elena Emil Fatima Felix Greta Hassan Helen Igor Irene Jack Jana Karim"
        " Katya Liam Linda Marco Mona Nadia Nils Oscar Petra Pablo Ruth Samir Selma Simon Tara Tomas Vera Viktor Wanda Yusuf Zoe"
    ),
    cities=(
        "Athens Berlin Bogota Boston Brussels Chicago Dakar Denver Dubai Geneva Hanoi Havana Helsinki Jakarta Kyoto Lagos Lisbon"
        " London Madrid Manila Milan Moscow Munich Nairobi Prague Seoul Sydney Turin Vienna Warsaw Zagreb Zurich"
    ),
    goods="lamps chairs boxes books pens cups plates ropes nails bolts shirts socks tents bikes coins stamps keys cards bottles bricks",
    acts="scan print sort pack load ship sign file call mail check weigh label seal count test fold stack clean paint",
    firms="Acme Borealis Cobalt Delta Everest Falcon Globex Harbor Indigo Juniper Kestrel Lumen Meridian Nimbus",
    things="lamp fan pump heater door gate radio alarm valve screen motor light",
)

TEST = _pool(
    "test",
    names="Abel Bruno Celia Dora Enzo Frida Gwen Henry Ines Jonas Kemal Lara Milo Nora Otto Pia Quentin Rafael Stella Theo Ursula Yann",
    cities="Ankara Baku Bergen Cork Doha Essen Fez Graz Izmir Kiel Leeds Malmo Naples Osaka Porto Riga Split Tunis Utrecht Vigo",
    goods="belts hats spoons forks drums flags kites masks rings quilts vases wires",
    acts="grill roast slice rinse season stir plate chill drain knead toast garnish",
    firms="Aster Basalt Corvus Drift Ember Fjord Granite Halcyon",
    things="oven mixer blender kettle freezer fridge toaster dryer",
)

SHOTS = _pool(
    "shots",
    names="Alan Beth Carl Dina Erik Faye Gary Hope",
    cities="Austin Basel Cannes Dallas Exeter Florence Ghent Hobart",
    goods="mugs rugs pots pans bags tins jars logs",
    acts="open lift move turn push pull tie mend",
    firms="Alpine Bravo Crown Dune",
    things="clock bell drone siren",
)

PLAIN = _pool(
    "plain",
    names="Ana Ben Carla Dan Eva Finn Gita Hugo Ivy Jon Kira Leo Mia Ned Olga Paul Rosa Sam Tina Uma",
    cities="Accra Bern Cairo Delhi Dublin Lima Oslo Paris Quito Rome Sofia Tokyo",
    goods="apples figs kiwis limes pears plums",
    acts="bake boil cool cut mix peel serve wash",
    firms="Orion Pallas Quartz Rhea",
    things="stove tap bulb horn",
)
"""What the ten first families were made of: kept from training where those families are tested."""

POOLS = {pool.name: pool for pool in (TRAIN, TEST, SHOTS, PLAIN)}
