"""Recipes: YAML in, frozen dataclasses out, each error with its line.

recipe.py     a recipe and how it is loaded
shipped.py    recipes that come with the package, by name
arguments.py  the options of a step as Python code gives them
schema.py     the options of a dataclass, read and checked
shorthand.py  short forms that stand for several options or steps
tree.py       overrides and paths, before options are read
yaml.py       YAML 1.2 text as plain values
"""

from compress.recipe.recipe import Recipe, load

__all__ = ["Recipe", "load"]
