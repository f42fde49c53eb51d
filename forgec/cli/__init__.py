"""The command ``forgec``: one file per verb; ``main`` puts them together."""
