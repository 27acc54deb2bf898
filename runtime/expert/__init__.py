"""runtime/expert"""
