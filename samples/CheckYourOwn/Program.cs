// Explores the importer of docs/check-your-own.md in every order: as it is, and with its drain not waited for.
using Wayleave.Simulation;

ExplorationReport right = Explorer.Explore(_ => OwnImporter.Build(waits: true));
Console.WriteLine($"as it is: {right.End} after {right.Counts.Runs} orders");
ExplorationReport wrong = Explorer.Explore(_ => OwnImporter.Build(waits: false));
Console.WriteLine($"without the drain: {wrong.Failure}");
return right.End == ExplorationEnd.EveryOrder && wrong.Failure is not null ? 0 : 1;
