"""What a launch would do: problems, steps, memory and time, estimated or measured."""
