"""llama.cpp's own server on one thread: `python llama_server.py FILE.gguf PORT`; needs the wheel xllamacpp alone."""

import sys
import time

import xllamacpp

if __name__ == "__main__":
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.port = int(sys.argv[2])
    params.n_ctx, params.n_parallel = 8192, 4
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup = params.ui = False
    params.verbosity = 0
    server = xllamacpp.Server(params)
    while server.listening_address:
        time.sleep(1)
