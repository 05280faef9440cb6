namespace Wayleave.Simulation;

/// <summary>
/// What a scenario throws when something does not hold that must: the message is the finding. Any other exception of a
/// step is reported with its type, as an accident of the code that threw it.
/// </summary>
public sealed class ViolationException : Exception
{
    public ViolationException() { }

    public ViolationException(string message) : base(message) { }

    public ViolationException(string message, Exception inner) : base(message, inner) { }
}
