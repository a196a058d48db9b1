"""What is fuzzed: each target takes bytes of a stranger and says by an exception what is wrong.

No target needs a fuzzer: the tests call them with their seeds and with everything found so far.
"""
