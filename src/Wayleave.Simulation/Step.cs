namespace Wayleave.Simulation;

/// <summary>One interleaving point: what follows it runs, as one atomic step, once <see cref="Ready"/> holds.</summary>
/// <param name="Name">What comes next, for the log of a failing run.</param>
/// <param name="Ready">
/// Asked between any two steps of any actor, so it reads state and changes none. Null: the step can always run.
/// </param>
public readonly record struct Step(string Name, Func<bool>? Ready = null)
{
    public static implicit operator Step(string name) => new(name);

    public static Step FromString(string name) => new(name);
}
