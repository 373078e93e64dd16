"""What every sprint uses and what knows no sprint: data, device, a recorded run (runlog) and what is made of its report."""
