"""Distribution objects of other libraries as Gaussians, and the way back.

Nothing foreign is imported at the top of a module: an object is known by its class's name. What is a factor stays one.
"""
