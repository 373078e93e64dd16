"""What every sprint uses and what knows no sprint: data, device, runlog (a recorded run), stats, tracking, report, docs, gallery, sprints."""
