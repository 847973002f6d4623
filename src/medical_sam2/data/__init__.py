"""What training and evaluation read: data sets on disk, pools of training cases, clips drawn from them.

`prepare` turns the one into the other, `catalog` knows published data sets. Import the modules; nothing is exported here.
"""
