using System.Globalization;
using Wayleave.Core;
using Wayleave.Simulation;

namespace Wayleave.Scenarios;

/// <summary>
/// What the steps of a run come to, for the run that is told: the events of the host, and what the scenario says
/// itself. Silent, and free, in all other runs.
/// </summary>
internal sealed class Story(Choices choices) : ITraceSink
{
    private readonly List<string> _lines = [];

    /// <summary>Whether anybody listens; who composes a text looks first.</summary>
    public bool IsTold => choices.IsTold;

    /// <summary>Adds to what the present step did.</summary>
    public void Say(string text)
    {
        if (IsTold)
        {
            _lines.Add(text);
        }
    }

    /// <summary>What was said since the last call, or null.</summary>
    public string? Take()
    {
        string? text = _lines.Count == 0 ? null : string.Join("; ", _lines);
        _lines.Clear();
        return text;
    }

    /// <summary>What both said.</summary>
    public static string? Join(Story one, Story other) => (one.Take(), other.Take()) switch
    {
        ({ } a, { } b) => $"{a}; {b}",
        (var a, var b) => a ?? b,
    };

    public void Emit(in TraceEvent traceEvent)
    {
        if (IsTold && Describe(traceEvent) is { } text)
        {
            _lines.Add(text);
        }
    }

    private static string? Describe(in TraceEvent e) => e.Name switch
    {
        "revoke.start" => $"'{e.Subject}' is taken back, maps fail from now on",
        "revoke.retired" => $"'{e.Subject}' has retired",
        "revoke.quarantined" => $"'{e.Subject}' has no sufficient proof",
        "quarantine.hold" => $"{e.Subject} goes to quarantine",
        "quarantine.release" => $"{e.Subject} leaves quarantine",
        "gpu.move" => $"{e.Subject} has a new place, its bytes follow",
        "copy.submit" => $"queues '{e.Subject}'",
        "copy.end" => $"ends '{e.Subject}' after {Number(e.Argument)} bytes",
        "rdma.fault" => $"{e.Subject} must be mapped again",
        "rdma.key_dead" => $"{e.Subject}: the key is dead",
        "rdma.gate_closed" => $"{e.Subject}: the gate is closed, {Number(e.Detail)} inside",
        "rdma.gate_drained" => $"{e.Subject}: the last one is out",
        "rdma.region_mapped" => $"{e.Subject} is mapped",
        "rdma.qp_error" => $"{e.Subject} goes to ERR",
        "rdma.nak" => $"{e.Subject} says NAK 0x{e.Argument.ToString("x", CultureInfo.InvariantCulture)}",
        _ => $"{e.Name} {e.Subject}",
    };

    private static string Number(long value) => value.ToString(CultureInfo.InvariantCulture);
}
