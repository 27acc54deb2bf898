"""ringlet.launcher"""
