"""Interfaces of other programs that run weather models."""
