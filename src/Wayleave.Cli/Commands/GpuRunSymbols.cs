using System.CommandLine;
using Wayleave.Devices.Gpu.Compute;

namespace Wayleave.Cli.Commands;

/// <summary>What can be said to <c>wayleave gpu run</c>.</summary>
internal sealed class GpuRunSymbols
{
    public Argument<string> Gpu { get; } = new("GPU")
    {
        Description = "A GPU of the host that runs here, or wl://HOST/GPU",
    };

    public Argument<string> Kernel { get; } = new("KERNEL")
    {
        Description = "fill TARGET | copy SOURCE TARGET | checksum SOURCE | add A B TARGET | "
            + "gather TABLE INDICES TARGET | matmul A B TARGET | ring RING [OBJECT...] | raw FILE [OBJECT...]",
    };

    public Argument<string[]> Operands { get; } = new("OBJECT")
    {
        Description = "An object of that GPU, or DEVICE/NAME, or +SIZE for memory of this process alone",
        Arity = ArgumentArity.OneOrMore,
    };

    public Option<string?> Value { get; } = new("--value")
    {
        Description = "What fill writes, 32 bits, also as 0xHEX",
        HelpName = "N",
    };

    public Option<long?> Bytes { get; } = Parsing.SizeOption(
        "--bytes", "How much of the objects (default: as much as the smallest has)");

    public Option<long?> Offset { get; } = Parsing.SizeOption(
        "--offset", "Where in the target, or in the source of a checksum");

    public Option<long?> Create { get; } = Parsing.SizeOption(
        "--create", "Make the target, of this size, before");

    public Option<uint> Rows { get; } = new("--rows") { Description = "Of A and the target of matmul" };

    public Option<uint> Inner { get; } = new("--inner") { Description = "Columns of A, rows of B" };

    public Option<uint> Columns { get; } = new("--columns")
    {
        Description = "Of B and the target of matmul",
    };

    public Option<string[]> After { get; } = new("--after")
    {
        Description = "Start when the work that signals this name has ended, on whatever GPU; can be repeated",
        HelpName = "NAME",
    };

    public Option<string?> Signal { get; } = new("--signal")
    {
        Description = "The name by which others wait for this",
        HelpName = "NAME",
    };

    public Option<GpuPriority> Priority { get; } = new("--priority")
    {
        Description = "low, normal or high",
        DefaultValueFactory = _ => GpuPriority.Normal,
    };

    public Option<GpuEngineKind> Engine { get; } = new("--engine")
    {
        Description = "Of raw and ring: compute, or copy, which runs beside it and fills and copies alone",
        DefaultValueFactory = _ => GpuEngineKind.Compute,
    };

    public Option<TimeSpan?> SubmitTimeout { get; } = Parsing.DurationOption(
        "--submit-timeout", "How long a name of --after may be unknown (default 10s)");

    public Option<bool> Hang { get; } = new("--hang")
    {
        Description = "Put a kernel that never ends before it, to see what the host does about it",
    };

    public Option<int> Commands { get; } = new("--commands")
    {
        Description = "How many commands of 64 bytes are in the ring",
        DefaultValueFactory = _ => 1,
    };

    /// <summary>In the order of the help.</summary>
    public Command ToCommand()
    {
        Priority.AcceptOnlyFromAmong(StringComparer.OrdinalIgnoreCase, "low", "normal", "high");
        Engine.AcceptOnlyFromAmong(StringComparer.OrdinalIgnoreCase, "compute", "copy");
        Command command = new("run", "Run a kernel on a GPU")
        {
            Gpu,
            Kernel,
            Operands,
            Value,
            Bytes,
            Offset,
            Create,
            Rows,
            Inner,
            Columns,
            After,
            Signal,
            Priority,
            Engine,
            SubmitTimeout,
            Hang,
            Commands,
        };
        command.AddClientOptions();
        return command;
    }
}
