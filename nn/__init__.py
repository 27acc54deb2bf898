"""ringlet.nn"""
