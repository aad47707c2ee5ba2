"""What the job costs, beside the least that is possible and beside what people would write instead."""
