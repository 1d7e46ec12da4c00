"""Problems whose answer is known exactly, to check that training finds it."""
