using System.CommandLine;
using System.Globalization;
using Wayleave.Cli.Output;
using Wayleave.Host;
using Wayleave.Host.Benchmarks.Tcp;

namespace Wayleave.Cli.Commands;

/// <summary>
/// <c>wayleave bench tcp-receive</c>: iperf3 over the kernel's TCP into device memory.
/// </summary>
internal static class BenchTcpReceiveCommand
{
    public static Command Create()
    {
        TcpReceiveOptions defaults = new();
        Option<int> mtu = Number("--mtu", "Of the link: 1280 to 65535", defaults.MtuBytes);
        Option<long?> region = Parsing.SizeOption("--region", "Device memory that is bound (default 2MiB)");
        Option<long?> hold = Parsing.SizeOption(
            "--hold", "What the reader keeps before it gives the oldest back; most of the region is cold (default 0)");
        Option<TimeSpan?> duration =
            Parsing.DurationOption("--duration", "Length of a round, whole seconds (default 1s)");
        Option<int> rounds = Number("--rounds", "Rounds; the results are their medians", defaults.Rounds);
        Option<bool> withLimit = new("--with-limit")
        {
            Description = "Read frames and throw them away before each round",
        };
        Command command = new("tcp-receive", "iperf3 over the kernel's TCP and a TAP device, into device memory")
        {
            mtu, region, hold, duration, rounds, withLimit,
        };
        command.SetAction(async (parsed, cancellation) =>
        {
            TcpReceiveOptions options = defaults with
            {
                MtuBytes = parsed.GetValue(mtu),
                RegionBytes = parsed.GetValue(region) ?? defaults.RegionBytes,
                HoldBytes = parsed.GetValue(hold) ?? defaults.HoldBytes,
                Duration = parsed.GetValue(duration) ?? defaults.Duration,
                Rounds = parsed.GetValue(rounds),
                WithLimit = parsed.GetValue(withLimit),
            };
            try
            {
                options.Validate();
            }
            catch (ArgumentException e)
            {
                throw new UsageException(e.Message);
            }

            CommandContext context = new(parsed);
            TcpReceiveReport report = await TcpReceiveBenchmark.RunAsync(options, cancellation).ConfigureAwait(false);
            if (context.IsJson)
            {
                context.Out.WriteLine(report.ToJson());
            }
            else
            {
                Write(report, context.Out);
            }

            return ExitCode.Done;
        });
        return command;
    }

    private static void Write(TcpReceiveReport report, TextWriter output)
    {
        output.WriteLine(
            $"iperf3 -> TAP, MTU {report.MtuBytes} -> {ByteSize.ToText(report.RegionBytes)} of device memory, "
            + $"{ByteSize.ToText(report.HoldBytes)} kept by the reader");
        TablePrinter table = new(
            ">round", ">BW[GB/s]", ">CPU[s/GB]", ">sender[s/GB]", ">copies", ">repaired", ">staged[B]", ">resent",
            ">limit[GB/s]");
        for (int i = 0; i < report.Rounds.Count; i++)
        {
            TcpReceiveRound round = report.Rounds[i];
            table.Add(
                (i + 1).ToString(CultureInfo.InvariantCulture),
                Fixed(round.BytesPerS / 1e9),
                Fixed(round.CpuSPerGb),
                Fixed(round.SenderCpuSPerGb),
                round.CopiesPerByte is { } copies ? Fixed(copies) : "",
                round.ScattersRepaired.ToString(CultureInfo.InvariantCulture),
                round.StagedBytes.ToString(CultureInfo.InvariantCulture),
                round.Retransmits.ToString(CultureInfo.InvariantCulture),
                round.LimitBytesPerS is { } limit ? Fixed(limit / 1e9) : "");
        }

        table.Add(
            "median",
            Fixed(report.MedianBytesPerS / 1e9),
            Fixed(report.MedianCpuSPerGb),
            "",
            "",
            "",
            "",
            "",
            report.MedianLimitBytesPerS is { } median ? Fixed(median / 1e9) : "");
        table.WriteTo(output);
    }

    private static Option<int> Number(string name, string description, int value) => new(name)
    {
        Description = description,
        HelpName = "N",
        DefaultValueFactory = _ => value,
    };

    private static string Fixed(double value) => value.ToString("F2", CultureInfo.InvariantCulture);
}
