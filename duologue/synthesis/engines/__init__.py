"""The speech programs, one module each, behind one function: text and voice in, `Speech` out."""
