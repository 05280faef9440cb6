using System.Diagnostics;
using System.Globalization;
using System.Text;
using Wayleave.Lab.Packages;

namespace Wayleave.Lab.Machine;

/// <summary>
/// A machine emulated by QEMU in software that boots the lab's kernel. Its root is the host's, read-only, below a
/// memory file system that takes what is written; <c>/run/lab</c> is a folder shared with the host.
/// </summary>
internal sealed class Guest
{
    private const int BootsMax = 3;

    private static readonly string[] s_firmware = ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"];

    private readonly KernelImage _kernel;
    private readonly ToolLayer _tools;
    private readonly ToolLayer _extra;
    private readonly string _initramfs;

    /// <param name="cache">Where the initial memory file system is kept.</param>
    /// <param name="kernel">What it boots.</param>
    /// <param name="tools">What the host needs for it, QEMU among it.</param>
    /// <param name="extra">What only the guest needs.</param>
    internal Guest(LabCache cache, KernelImage kernel, ToolLayer tools, ToolLayer extra)
    {
        _kernel = kernel;
        _tools = tools;
        _extra = extra;
        _initramfs = Initramfs.Build(cache, kernel, tools);
    }

    /// <summary>Boots, runs the command by bash in the guest, and powers off.</summary>
    /// <param name="options">The machine.</param>
    /// <param name="command">A script of bash.</param>
    /// <param name="share">A folder of the host: <c>/run/lab</c> in the guest, read and write.</param>
    /// <param name="beside">Runs on the host meanwhile, in the guest's network; only with a network.</param>
    /// <param name="echo">
    /// Takes the output line by line as it comes: the line, and whether it is an error. Null: nobody does.
    /// </param>
    /// <param name="cancellation">Stops the machine.</param>
    /// <remarks>
    /// A kernel that crashes while it boots, or over a breakpoint that nobody set, is started again: QEMU's software
    /// emulation of several processors now and then misses that one of them has patched code that another runs (Red Hat
    /// bug 2216496). What the run before left in the share is removed.
    /// </remarks>
    internal GuestResult Run(
        GuestOptions options, string command, string share, string? beside, Action<string, bool>? echo,
        CancellationToken cancellation)
    {
        HashSet<string> given = [.. Directory.EnumerateFileSystemEntries(share)];
        for (int boots = 1; ; boots++)
        {
            GuestResult result = RunOnce(options, command, share, beside, echo, cancellation) with { Boots = boots };
            if (!result.CrashedByEmulator || boots == BootsMax)
            {
                return result;
            }

            Clear(share, given);
        }
    }

    private static void Clear(string share, HashSet<string> given)
    {
        foreach (string left in Directory.GetFileSystemEntries(share).Where(e => !given.Contains(e)))
        {
            if (Directory.Exists(left))
            {
                Directory.Delete(left, recursive: true);
            }
            else
            {
                File.Delete(left);
            }
        }
    }

    private GuestResult RunOnce(
        GuestOptions options, string command, string share, string? beside, Action<string, bool>? echo,
        CancellationToken cancellation)
    {
        string console = Path.Combine(share, "console.log");
        File.WriteAllText(Path.Combine(share, "command"), Script(options, command));
        File.Delete(Path.Combine(share, "exit"));
        IReadOnlyList<string> line = [_tools.Find("qemu-system-x86_64"), .. Arguments(options, share, console)];
        if (options.HasNetwork)
        {
            line = HostNetwork.Wrap(line, beside, Path.Combine(share, "beside.log"));
        }

        File.WriteAllText(Path.Combine(share, "qemu.sh"), Shell.Quote(line) + "\n");
        ProcessStartInfo info = new(line[0], line.Skip(1))
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        foreach ((string name, string value) in _tools.Environment())
        {
            info.Environment[name] = value;
        }

        Stopwatch watch = Stopwatch.StartNew();
        using Process process = Process.Start(info)!;
        process.StandardInput.Close();
        StringBuilder output = new(), error = new();
        Collect(process, output, error, echo);
        bool ended = Wait(process, options.TimeLimit, cancellation);
        watch.Stop();
        cancellation.ThrowIfCancellationRequested();
        string said = Path.Combine(share, "exit");
        int? code = null;
        if (!ended)
        {
            code = ExitCodes.TimedOut;
        }
        else if (File.Exists(said)
            && int.TryParse(File.ReadAllText(said), CultureInfo.InvariantCulture, out int parsed))
        {
            code = parsed;
        }

        string printed = File.Exists(console) ? File.ReadAllText(console) : "";
        return new GuestResult(code, output.ToString(), error.ToString(), printed, watch.Elapsed);
    }

    private static void Collect(Process process, StringBuilder output, StringBuilder error, Action<string, bool>? echo)
    {
        void Take(StringBuilder text, string? line, bool isError)
        {
            if (line is null)
            {
                return;
            }

            lock (text)
            {
                text.Append(line).Append('\n');
            }

            echo?.Invoke(line, isError);
        }

        process.OutputDataReceived += (_, e) => Take(output, e.Data, isError: false);
        process.ErrorDataReceived += (_, e) => Take(error, e.Data, isError: true);
        process.BeginOutputReadLine();
        process.BeginErrorReadLine();
    }

    // False: the limit passed, and the machine with all that it started is gone.
    private static bool Wait(Process process, TimeSpan limit, CancellationToken cancellation)
    {
        using CancellationTokenSource timer = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        timer.CancelAfter(limit);
        bool ended = true;
        try
        {
            process.WaitForExitAsync(timer.Token).GetAwaiter().GetResult();
        }
        catch (OperationCanceledException)
        {
            ended = process.HasExited;
            process.Kill(entireProcessTree: true);
        }

        process.WaitForExit();
        return ended;
    }

    private static string Script(GuestOptions options, string command)
    {
        StringBuilder script = new("export HOME=/run\n");
        script.Append("export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n");
        IEnumerable<KeyValuePair<string, string>> own = System.Environment.GetEnvironmentVariables()
            .Cast<System.Collections.DictionaryEntry>()
            .Select(e => KeyValuePair.Create((string)e.Key, (string?)e.Value ?? ""))
            .Where(e => e.Key.StartsWith("DOTNET_", StringComparison.Ordinal));
        foreach ((string name, string value) in own.Concat(options.Environment))
        {
            script.Append("export ").Append(name).Append('=').Append(Shell.Quote(value)).Append('\n');
        }

        string folder = Shell.Quote(Directory.GetCurrentDirectory());
        return script.Append("cd ").Append(folder).Append('\n').Append(command).Append('\n').ToString();
    }

    private List<string> Arguments(GuestOptions options, string share, string console)
    {
        List<string> arguments =
        [
            "-machine", options.Machine, "-accel", "tcg,thread=multi", "-cpu", options.Cpu,
            "-smp", options.Processors.ToString(CultureInfo.InvariantCulture),
            "-m", options.MemoryMiB.ToString(CultureInfo.InvariantCulture),
            "-nodefaults", "-display", "none", "-no-reboot", "-monitor", "none",
            "-kernel", _kernel.Image, "-initrd", _initramfs,
            "-append", $"console=ttyS0 quiet loglevel=4 panic=-1 random.trust_cpu=on {options.KernelArguments}".Trim(),
            "-serial", $"file:{console}",
            "-chardev", "stdio,id=out,signal=off", "-serial", "chardev:out",
            "-chardev", "file,id=err,path=/dev/stderr,append=on", "-serial", "chardev:err",
            "-object", "rng-random,filename=/dev/urandom,id=rng", "-device", "virtio-rng-pci,rng=rng",
        ];
        if (_tools.Tree is string tree)
        {
            foreach (string folder in s_firmware)
            {
                string data = Path.Combine(tree, folder);
                if (Directory.Exists(data))
                {
                    arguments.AddRange(["-L", data]);
                }
            }
        }

        void Share(string tag, string path, string mode) => arguments.AddRange([
            "-fsdev", $"local,id={tag},path={path},security_model=none{mode}",
            "-device", $"virtio-9p-pci,fsdev={tag},mount_tag={tag}",
        ]);
        Share("lab-root", "/", ",readonly=on,multidevs=remap");
        Share("lab-share", share, "");
        string[] layers = [.. ((string?[])[_kernel.Tree, _extra.Tree, _tools.Tree]).OfType<string>()];
        for (int i = 0; i < layers.Length; i++)
        {
            Share($"lab-layer{i}", layers[i], ",readonly=on");
        }

        foreach ((string name, int size) in options.Images)
        {
            string image = Path.Combine(share, name + ".img");
            using (FileStream file = File.Create(image))
            {
                file.SetLength((long)size << 20);
            }

            arguments.AddRange(["-drive", $"file={image},format=raw,if=none,id={name},cache=unsafe"]);
        }

        foreach (string device in options.Devices)
        {
            arguments.AddRange(["-device", device]);
        }

        if (options.HasNetwork)
        {
            arguments.AddRange(HostNetwork.Arguments);
        }

        return arguments;
    }
}
