"""Faults, counted: each part is killed, stalled or cut off while questions are collected and trained on."""
