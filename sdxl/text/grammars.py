"""The names of what can be asked of prompts. Imports nothing, so that the command line's help needs no tokenizer."""

SYNTAXES = ("plain", "a1111", "comfyui")
LONG_PROMPTS = ("chunk", "truncate")
MOST_LETTERS = 2**16  # of a prompt that is parsed
NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)"  # in prompts
EMPHASES = ("original", "no_norm", "comfyui", "none")
