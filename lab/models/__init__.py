"""The frozen backbone, the bank of experts, heads, and the learner made of them."""
