"""Training: one plain PyTorch loop, and the tasks it trains.

trainer.py        the loop: resume, accumulate, save, log, stop cleanly
checkpoint.py     a training state on disk: safetensors + JSON, whole or absent
config.py         TOML tables -> frozen dataclasses, unknown keys are errors
optim.py          parameter groups, learning-rate schedule, running average of weights
data.py           manifest of recordings -> the n-th segment, a pure function of n
phones.py         phone labels -> targets per codec frame
codec.py          the codec task: what is learnt in one step, what is judged, what is exported
quantization.py   learning residual codebooks: moving averages, k-means start, revival, dropout
codec_losses.py   spectral and waveform losses, and the balance between them
discriminator.py  the adversary: several STFT resolutions, hinge loss, feature matching
metrics.py        STOI, mel distance, SI-SDR, codebook use
reports.py        JSONL, TensorBoard, progress, WAV and spectrogram samples

language.py       what both language models' tasks share; duplex.py, stt.py: the tasks
encoded.py        a corpus as codes; heard.py: what a recogniser makes of its users
lm_data.py        sequences of codes and text; sound.py: of spectra, bent in passing
text_stream.py    words -> text rows; scripts.py: written dialogues; exercises.py: sentences alone
lm_losses.py      delays, text, audio and pause losses
tokenizer.py      the text pieces; code_embeddings.py: first tables of codes
translation.py    tables of a model that goes on with another codec
bundle.py         the parts as one small folder

command.py        `duologue train ...`
"""
