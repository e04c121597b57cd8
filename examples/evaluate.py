"""Scores one setting of a kernel regression that predicts a penguin's body mass from its size and sex.

    python3 evaluate.py penguins.csv BANDWIDTH SEX_WEIGHT

Each bird is predicted from all the others (leave-one-out), as the mean of their masses weighted by exp(-d^2 / (2 BANDWIDTH^2)). The
distance d is taken over bill length, bill depth and flipper length in standard deviations; two birds of different sex are
SEX_WEIGHT further apart. The scores go to the file that $SPARKLES_RESULTS names, as JSON: rmse in grams, and r2. Standard library
only; the same arguments give the same bytes.
"""

import csv
import json
import math
import os
import statistics
import sys

SIZES = ("bill_length_mm", "bill_depth_mm", "flipper_length_mm")


def read_birds(path, sex_weight):
    """Points (three sizes, sex) in units of distance, and masses in grams; birds with a missing value are left out."""
    with open(path, newline="", encoding="utf-8") as file:
        birds = [bird for bird in csv.DictReader(file) if "NA" not in bird.values()]
    columns = []
    for size in SIZES:
        values = [float(bird[size]) for bird in birds]
        mean, deviation = statistics.fmean(values), statistics.pstdev(values)
        columns.append([(value - mean) / deviation for value in values])
    columns.append([sex_weight if bird["sex"] == "male" else 0.0 for bird in birds])
    return list(zip(*columns, strict=True)), [float(bird["body_mass_g"]) for bird in birds]


def predict_each(points, masses, bandwidth):
    """The leave-one-out predictions, in grams."""
    weighted, weights = [0.0] * len(points), [0.0] * len(points)
    for i, a in enumerate(points):
        for j in range(i):
            weight = math.exp(-(math.dist(a, points[j]) ** 2) / (2 * bandwidth**2))
            weighted[i] += weight * masses[j]
            weights[i] += weight
            weighted[j] += weight * masses[i]
            weights[j] += weight
    mean = statistics.fmean(masses)
    return [total / weight if weight else mean for total, weight in zip(weighted, weights, strict=True)]


def main():
    path, bandwidth, sex_weight = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    points, masses = read_birds(path, sex_weight)
    predicted = predict_each(points, masses, bandwidth)
    squares = [(mass - guess) ** 2 for mass, guess in zip(masses, predicted, strict=True)]
    rmse, r2 = math.sqrt(statistics.fmean(squares)), 1 - statistics.fmean(squares) / statistics.pvariance(masses)
    print(f"bandwidth {bandwidth:g}, sex weight {sex_weight:g}: rmse {rmse:.1f} g, r2 {r2:.3f} over {len(masses)} birds")
    with open(os.environ["SPARKLES_RESULTS"], "w", encoding="utf-8") as file:
        json.dump({"rmse": round(rmse, 3), "r2": round(r2, 5)}, file)


if __name__ == "__main__":
    main()
