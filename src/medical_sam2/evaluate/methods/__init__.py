"""Who answers: `named` finds a method, `method` is their interface; each other file is one, or one family."""
