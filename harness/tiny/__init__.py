"""Scale tiny: a generated world, its pool, its 40 stand-in task sets and the two reference CLIPs that score the pool.

words, art, world    names of things · masks and painting · factors of a picture and how it looks
captions             right captions and those that the web writes
shards, pool         one shard · the whole pool
questions, sets, tasks   the task sets as data · one set · all of them
clips                the reference CLIPs (the only module here that imports torch)
folder, cache        made once and whole · the user's cache folder
"""
