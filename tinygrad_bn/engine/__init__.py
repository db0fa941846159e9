"""The engine: tensors, the tape that records how they were computed, and the walk back along it.

Read in this order: recording, tensors, operators, tape, backward. guards is about bad input.
"""
