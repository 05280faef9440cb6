using System.Diagnostics;
using System.Text.Json;
using Wayleave.Core;

namespace Wayleave.Host.Benchmarks;

/// <summary>
/// The other process, as the active side sees it. Its standard error is ours. Disposing ends its input, and then it
/// ends itself.
/// </summary>
internal sealed class PassiveProcess : IDisposable
{
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(30);
    private static readonly TimeSpan s_exitPatience = TimeSpan.FromSeconds(10);

    private readonly Process _process;

    private PassiveProcess(Process process) => _process = process;

    /// <param name="command">
    /// Starts a process that runs <see cref="PassiveSide.RunAsync(TextReader, TextWriter)"/>.
    /// </param>
    /// <exception cref="WayleaveException">It cannot be started.</exception>
    public static PassiveProcess Start(ProcessStartInfo command)
    {
        command.RedirectStandardInput = true;
        command.RedirectStandardOutput = true;
        command.UseShellExecute = false;
        try
        {
            return new PassiveProcess(Process.Start(command)!);
        }
        catch (System.ComponentModel.Win32Exception e)
        {
            throw new WayleaveException(
                (Errno)e.NativeErrorCode, $"start {command.FileName}", e.Message, innerException: e);
        }
    }

    /// <summary>Sends a command and waits for its reply.</summary>
    /// <exception cref="WayleaveException">The command failed over there, or the process ended or hangs.</exception>
    public async Task<PassiveReply> AskAsync(PassiveCommand command, CancellationToken cancellation)
    {
        const string Operation = "drive the passive process";
        try
        {
            await _process.StandardInput.WriteLineAsync(
                JsonSerializer.Serialize(command, BenchmarkJson.Default.PassiveCommand)).ConfigureAwait(false);
            await _process.StandardInput.FlushAsync(cancellation).ConfigureAwait(false);
            string? line = await _process.StandardOutput
                .ReadLineAsync(cancellation).AsTask().WaitAsync(s_patience, cancellation).ConfigureAwait(false);
            PassiveReply? reply = line is null
                ? null
                : JsonSerializer.Deserialize(line, BenchmarkJson.Default.PassiveReply);
            return reply switch
            {
                null => throw new WayleaveException(Errno.EPIPE, Operation, $"it ended at {command.Verb}"),
                { Error: { } error } => throw new WayleaveException(Errno.EIO, Operation, error),
                _ => reply,
            };
        }
        catch (TimeoutException e)
        {
            throw new WayleaveException(
                Errno.ETIMEDOUT,
                Operation,
                $"no answer to {command.Verb} within {s_patience.TotalSeconds} s",
                innerException: e);
        }
        catch (IOException e) when (e is not WayleaveException)
        {
            throw new WayleaveException(Errno.EPIPE, Operation, $"it ended before {command.Verb}", innerException: e);
        }
    }

    public void Dispose()
    {
        try
        {
            _process.StandardInput.Dispose();
        }
        catch (IOException)
        {
            // The process has ended before: there is nobody left to tell.
        }

        if (!_process.WaitForExit(s_exitPatience))
        {
            _process.Kill();
            _process.WaitForExit();
        }

        _process.Dispose();
    }
}
