"""launcher/commands/options"""
