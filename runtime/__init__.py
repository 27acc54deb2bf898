"""ringlet.runtime"""
