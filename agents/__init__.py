"""Who acts: roles, the shared model that plays them all, and the frozen retriever.

Leaves first: `errors` and `call` (what one sampled generation is), `role` (what a role is),
`workflow` (the plan
grammar); then one file per role; then `model` (the only door to torch) and `retriever` (the only
door to Chroma).
Importing this package loads none of them.
"""
