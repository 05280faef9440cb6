namespace Wayleave.Core;

/// <summary>
/// Something that happened, as a value: a name of low cardinality (<c>revoke.gate_closed</c>), the subject it happened
/// to, and at most two numbers. An event is also a coverage mark that a test can require.
/// </summary>
public readonly record struct TraceEvent(string Name, string Subject, long Argument = 0, long Detail = 0);

/// <summary>
/// Takes events. Called with or without the host lock, from any thread: it returns at once and never calls back.
/// </summary>
public interface ITraceSink
{
    void Emit(in TraceEvent traceEvent);
}
