namespace Wayleave.Scenarios;

/// <summary>An actor without an end of its own: it works whenever there is work.</summary>
/// <param name="Name">For the log of a failing run.</param>
/// <param name="HasWork">Reads state and changes none.</param>
/// <param name="Work">One atomic step.</param>
internal sealed record Service(string Name, Func<bool> HasWork, Action Work);
