"""Fast paths of the models: the same numbers, the same states, far fewer instructions.

The modules of `nn`, `mimi` and `moshi` stay the readable reference; what is here is proven equal to
them within a stated tolerance. Nothing here is needed to run. On CPU, compiled code replaces them
when a model is loaded (`codec`, `front_end`, `lm`; see `choice`). On CUDA devices, their own work
is captured as one graph for a whole frame (`graph`; see `frame_choice`).
"""
