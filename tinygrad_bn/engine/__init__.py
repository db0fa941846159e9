"""The engine: tensors, the tape that records how they were computed, and the walk back along it.

Read in this order: recording, tensors, operators, tape, backward. versions notices changes in place. guards is for
what is unusual: arguments by keyword, arrays among tensors, and all bad input; nothing in it is needed to understand
how gradients flow.
"""
