"""runtime/context"""
