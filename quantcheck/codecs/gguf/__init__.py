"""GGUF's block formats, as ggml defines and llama.cpp reads them, one type a file.

A row is a run of blocks of 32 or 256 codes, each with its scales beside its codes, so everything is stored
in one tensor: ``blocks`` uint8 [rows, cols / block size * bytes a block]. All of it is little-endian, and so
must the machine be. `blocks` holds what the types share. Importance-matrix types (IQ*), those with a float
minimum a block (Q4_1, Q5_1), the runtime's (Q8_1, Q8_K) and the types of other bodies (MXFP4) are left out.
"""
