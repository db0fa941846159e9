"""The engine: tensors, the tape that records how they were computed, and the walk back along it.

Read in this order: recording, tensors, operators, tape, backward. versions notices changes in place; guards is about
bad input, and nothing in it is needed to understand how gradients flow.
"""
