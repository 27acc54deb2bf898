"""ringlet.comm"""
