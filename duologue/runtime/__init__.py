"""Fast paths of the models on CPU: the same numbers, the same states, far fewer instructions.

The modules of `nn`, `mimi` and `moshi` stay the readable reference; what is here is proven equal to
them within a stated tolerance and is chosen when a model is loaded. Nothing here is needed to run.
"""
