"""Speed and memory: ours against plain, against peers, and against what the machine can do.

settings   what is measured: the schema of configs/benchmarks
variants   how it is run: engine, precision, memory format, compiled or not
workload   the network, its inputs, and what its passes cost
engines    our networks; peers: diffusers and the package DeepCache
clock      timing many computations in turn; attainable: what to hold against them
measure    one case; records: the JSON lines it leaves
render     tables; plot
"""
