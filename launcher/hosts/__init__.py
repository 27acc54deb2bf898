"""launcher/hosts"""
