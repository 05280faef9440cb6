using System.CommandLine;
using System.Globalization;
using Wayleave.Cli.Output;
using Wayleave.Core;
using Wayleave.Devices.Gpu.Compute;
using Wayleave.Host;
using Wayleave.Host.Control;
using Device = Wayleave.Devices.Gpu.Compute.GpuCommand;

namespace Wayleave.Cli.Commands;

// What a run holds is tied to its process: when it ends, in whatever way, its jobs stop and its buffers are let go of.

/// <summary>
/// <c>wayleave gpu run</c>: one kernel on named objects, and the checksum of what came out, computed on the GPU.
/// </summary>
internal sealed class GpuRunCommand
{
    private const string Ring = "ring";
    private const string Raw = "raw";

    private readonly GpuRunSymbols _symbols;
    private readonly ParseResult _parsed;
    private readonly CommandContext _context;
    private readonly ControlClient _client;
    private readonly string _gpu;
    private readonly string _kernel;
    private readonly CancellationToken _cancellation;

    private GpuRunCommand(
        GpuRunSymbols symbols, ParseResult parsed, ControlClient client, string gpu, CancellationToken cancellation)
    {
        (_symbols, _parsed, _client, _gpu, _cancellation) = (symbols, parsed, client, gpu, cancellation);
        _context = new CommandContext(parsed);
        _kernel = parsed.GetRequiredValue(_symbols.Kernel);
    }

    public static Command Create()
    {
        GpuRunSymbols symbols = new();
        Command command = symbols.ToCommand();
        command.SetAction(async (parsed, cancellation) =>
        {
            string text = parsed.GetRequiredValue(symbols.Gpu);
            WlUrl? url = WlUrl.HasScheme(text) ? WlUrl.Parse(text) : null;
            string gpu = url is null ? text
                : url is { Device: { } device, Name: null } ? device
                : throw new UsageException($"{text}: write wl://HOST/GPU");
            using ControlClient client = parsed.OpenClient(url);
            GpuRunCommand run = new(symbols, parsed, client, gpu, cancellation);
            return await run.RunAsync().ConfigureAwait(false);
        });
        return command;
    }

    private Task<int> RunAsync()
    {
        GpuKernel? kernel = GpuKernel.All.FirstOrDefault(k => k.Name == _kernel);
        string[] operands = _parsed.GetRequiredValue(_symbols.Operands);
        if (kernel is not null && operands.Length != kernel.Operands.Length)
        {
            throw new UsageException($"{_kernel} takes {string.Join(' ', kernel.Operands)}");
        }

        if (kernel is not null && _parsed.GetValue(_symbols.Engine) == GpuEngineKind.Copy)
        {
            throw new UsageException($"--engine copy is for raw and ring: a checksum is taken of what {_kernel} made");
        }

        return _kernel switch
        {
            Ring => RunRingAsync(operands),
            Raw => RunRawAsync(operands),
            _ => kernel is not null
                ? RunKernelAsync(kernel, operands)
                : throw new UsageException(
                    $"'{_kernel}' is no kernel; there are {string.Join(", ", GpuKernel.All.Select(k => k.Name))}, "
                        + "ring and raw"),
        };
    }

    private async Task<int> RunKernelAsync(GpuKernel kernel, string[] names)
    {
        GpuRunRequest request = ReadRequest();
        bool hasShape = request is { Rows: > 0, Inner: > 0, Columns: > 0 };
        if (kernel.Opcode == GpuOpcode.MatrixMultiply && !hasShape)
        {
            throw new UsageException("matmul needs --rows, --inner and --columns");
        }

        if (_parsed.GetValue(_symbols.Create) is { } size)
        {
            await CreateTargetAsync(kernel, names[^1], size).ConfigureAwait(false);
        }

        HeldContext context = await OpenAsync().ConfigureAwait(false);
        await using (context.ConfigureAwait(false))
        {
            List<BufferHandleDocument> operands = [];
            for (int i = 0; i < names.Length; i++)
            {
                bool writes = kernel.Writes && i == names.Length - 1;
                operands.Add(await OpenBufferAsync(context, names[i], writes).ConfigureAwait(false));
            }

            GpuCommandMode mode = context.Context.Mode;
            ulong bytes = request.Bytes ?? kernel.DefaultBytes(request, operands);
            if (bytes == 0 && request.Bytes is null)
            {
                throw new WayleaveException(
                    Errno.EINVAL,
                    $"gpu run {_gpu} {kernel.Name}",
                    "commands go by words of 4 bytes, and one of its objects has fewer",
                    "wayleave ls shows their sizes");
            }

            Device command = kernel.ToCommand(request, mode, operands, bytes);
            List<Device> commands = kernel.Writes
                ? [command, GpuKernel.ToChecksum(mode, operands[^1], request.Offset, bytes, context.Context.Results)]
                : [GpuKernel.ToChecksum(mode, operands[0], request.Offset, bytes, context.Context.Results)];
            if (_parsed.GetValue(_symbols.Hang))
            {
                commands.Insert(0, new Device { Opcode = GpuOpcode.Spin, Count = ulong.MaxValue });
            }

            byte[] ring = new byte[commands.Count * Device.SizeBytes];
            for (int i = 0; i < commands.Count; i++)
            {
                commands[i].Write(ring.AsSpan(i * Device.SizeBytes));
            }

            JobDocument job = await SubmitAsync(context, ring, results: 1).ConfigureAwait(false);
            return Print(context, ToDocument(job) with
            {
                Target = Qualify(names[^1]),
                Bytes = bytes,
                Checksum = job.Results is [uint checksum, ..] ? string.Create(
                    CultureInfo.InvariantCulture, $"0x{checksum:x8}") : null,
            });
        }
    }

    private async Task<int> RunRawAsync(string[] operands)
    {
        byte[] bytes = await File.ReadAllBytesAsync(operands[0], _cancellation).ConfigureAwait(false);
        HeldContext context = await OpenAsync().ConfigureAwait(false);
        await using (context.ConfigureAwait(false))
        {
            await OpenAllAsync(context, operands.Skip(1)).ConfigureAwait(false);
            return Print(context, ToDocument(await SubmitAsync(context, bytes, results: 0).ConfigureAwait(false)));
        }
    }

    // A ring has no fence: how far it is can only be looked at.
    private async Task<int> RunRingAsync(string[] names)
    {
        HeldContext context = await OpenAsync().ConfigureAwait(false);
        await using (context.ConfigureAwait(false))
        {
            ulong written = (ulong)Math.Max(0, _parsed.GetValue(_symbols.Commands));
            BufferHandleDocument ring = (await OpenAllAsync(context, names).ConfigureAwait(false))[0];
            ulong slots = Math.Max(1, ring.SizeBytes / Device.SizeBytes);
            CreateQueueDocument create = new()
            {
                Name = "run",
                Priority = _parsed.GetValue(_symbols.Priority),
                Engine = _parsed.GetValue(_symbols.Engine),
                RingAddress = ring.Address,
                RingCommands = (uint)Math.Min(1UL << (63 - (int)ulong.LeadingZeroCount(slots)), 1 << 16),
            };
            long start = TimeProvider.System.GetTimestamp();
            QueueDocument queue = await context.CreateQueueAsync(create, _cancellation).ConfigureAwait(false);
            queue = await context.RingDoorbellAsync(queue.Id, written, _cancellation).ConfigureAwait(false);
            while (queue.State == QueueState.Busy)
            {
                await Task.Delay(TimeSpan.FromMilliseconds(2), _cancellation).ConfigureAwait(false);
                queue = await context.GetQueueAsync(queue.Id, _cancellation).ConfigureAwait(false);
            }

            return Print(context, new GpuRunDocument
            {
                Gpu = _gpu,
                Kernel = _kernel,
                State = queue.State == QueueState.Lost ? "failed" : "done",
                Error = queue.Error,
                Target = Qualify(names[0]),
                Commands = queue.Done,
                ElapsedUs = (long)TimeProvider.System.GetElapsedTime(start).TotalMicroseconds,
            });
        }
    }

    private async Task<JobDocument> SubmitAsync(HeldContext context, byte[] commands, int results)
    {
        QueueDocument queue = await context.CreateQueueAsync(
            new CreateQueueDocument
            {
                Name = "run",
                Priority = _parsed.GetValue(_symbols.Priority),
                Engine = _parsed.GetValue(_symbols.Engine),
            },
            _cancellation)
            .ConfigureAwait(false);
        SubmitJobDocument submit = new()
        {
            Queue = queue.Id,
            Commands = commands,
            After = _parsed.GetValue(_symbols.After) ?? [],
            Signal = _parsed.GetValue(_symbols.Signal),
            Results = results,
        };
        if (_parsed.GetValue(_symbols.SubmitTimeout) is { } timeout)
        {
            submit.SubmitTimeoutMs = (int)Math.Min(timeout.TotalMilliseconds, TimeSpan.FromHours(1).TotalMilliseconds);
        }

        JobDocument job = await context.SubmitAsync(submit, _cancellation).ConfigureAwait(false);
        return await context.WaitAsync(job.Id, _cancellation).ConfigureAwait(false);
    }

    private Task<HeldContext> OpenAsync()
    {
        string name = string.Create(CultureInfo.InvariantCulture, $"run-{Environment.ProcessId}");
        return _client.OpenGpuAsync(_gpu, name, _cancellation);
    }

    private async Task<List<BufferHandleDocument>> OpenAllAsync(HeldContext context, IEnumerable<string> names)
    {
        List<BufferHandleDocument> buffers = [];
        foreach (string name in names)
        {
            buffers.Add(await OpenBufferAsync(context, name, writes: true).ConfigureAwait(false));
        }

        return buffers;
    }

    private Task<BufferHandleDocument> OpenBufferAsync(HeldContext context, string operand, bool writes)
    {
        if (operand.StartsWith('+'))
        {
            return ByteSize.TryParse(operand.AsSpan(1), out long bytes) && bytes > 0
                ? context.AllocateAsync((ulong)bytes, _cancellation)
                : throw new UsageException($"{operand}: after + comes {ByteSize.Forms}");
        }

        string[] parts = Qualify(operand).Split('/', 2);
        return context.OpenBufferAsync(parts[0], parts[1], writes, _cancellation);
    }

    private async Task CreateTargetAsync(GpuKernel kernel, string operand, long sizeBytes)
    {
        if (!kernel.Writes)
        {
            throw new UsageException($"--create: {kernel.Name} writes no object");
        }

        string[] parts = Qualify(operand).Split('/', 2);
        CreateObjectDocument create = new() { Device = parts[0], Name = parts[1], SizeBytes = (ulong)sizeBytes };
        ObjectDocument made = await _client.CreateObjectAsync(create, _cancellation).ConfigureAwait(false);
        await _client.CommitObjectAsync(made.Id, null, _cancellation).ConfigureAwait(false);
    }

    private GpuRunRequest ReadRequest() => new()
    {
        Value = ReadValue(_parsed.GetValue(_symbols.Value)),
        Bytes = (ulong?)_parsed.GetValue(_symbols.Bytes),
        Offset = (ulong)(_parsed.GetValue(_symbols.Offset) ?? 0),
        Rows = _parsed.GetValue(_symbols.Rows),
        Inner = _parsed.GetValue(_symbols.Inner),
        Columns = _parsed.GetValue(_symbols.Columns),
    };

    private static uint ReadValue(string? text)
    {
        bool isHex = text?.StartsWith("0x", StringComparison.OrdinalIgnoreCase) == true;
        NumberStyles style = isHex ? NumberStyles.AllowHexSpecifier : NumberStyles.None;
        return text is null ? 0
            : uint.TryParse(isHex ? text[2..] : text, style, CultureInfo.InvariantCulture, out uint value) ? value
            : throw new UsageException($"--value: '{text}' is no number of 32 bits");
    }

    private string Qualify(string operand) =>
        operand.StartsWith('+') ? $"{operand[1..]} of its own"
        : operand.Contains('/', StringComparison.Ordinal) ? operand
        : $"{_gpu}/{operand}";

    private GpuRunDocument ToDocument(JobDocument job) => new()
    {
        Gpu = _gpu,
        Kernel = _kernel,
        Job = job.Id,
        State = GpuCommand.ToWord(job.State),
        Error = job.Error,
        ElapsedUs = job.EndedAtUs - job.SubmittedAtUs,
    };

    private int Print(HeldContext context, GpuRunDocument run)
    {
        bool isWell = run.State == "done";
        if (_context.IsJson)
        {
            _context.WriteJson(run, GpuRunJson.Default.GpuRunDocument);
        }
        else if (isWell)
        {
            string bytes = run.Bytes is { } count ? $" {ByteSize.Format(count)}" : "";
            string target = run.Target is { } name ? $" {name}:" : "";
            string checksum = run.Checksum is { } sum ? $", checksum {sum}" : "";
            string commands = run.Commands is { } done
                ? string.Create(CultureInfo.InvariantCulture, $" {done} commands") : "";
            string elapsed = Durations.Format(TimeSpan.FromMicroseconds(run.ElapsedUs ?? 0));
            _context.Out.WriteLine($"{_kernel}{target}{bytes}{commands} in {elapsed}{checksum}");
        }

        if (isWell)
        {
            return ExitCode.Done;
        }

        _context.Error.WriteLine($"wayleave: gpu run {_gpu} {_kernel}: {Describe(context, run)}");
        return ExitCode.Failed;
    }

    private static string Describe(HeldContext context, GpuRunDocument run)
    {
        string hang = Durations.Format(TimeSpan.FromMilliseconds(context.Context.HangLimitMs));
        string reason = run.Error switch
        {
            nameof(Errno.ETIME) => $"it had the engine for longer than {hang}: hung, stopped, and its queue is lost",
            nameof(Errno.EFAULT) => "it reached memory that is not its own, and its queue is lost",
            nameof(Errno.EACCES) => "it wrote what it may only read, and its queue is lost",
            nameof(Errno.ECANCELED) => "memory that it uses was taken back, or its context has ended",
            nameof(Errno.EIO) => "the GPU failed or was pulled out",
            nameof(Errno.EINVAL) => "it met a command that makes no sense, and its queue is lost",
            null => "its queue is lost",
            _ => "it failed",
        };
        string at = run.Commands is { } done
            ? string.Create(CultureInfo.InvariantCulture, $" after {done} commands")
            : "";
        return run.Error is { } error ? $"{error}{at}: {reason}" : $"{reason}{at}";
    }
}
