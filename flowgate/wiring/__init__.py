"""Puts the rooms of one node together, stage by stage; each stage knows those before it."""
