using Wayleave.Core;
using Wayleave.Host;
using Wayleave.Host.Configuration;
using Wayleave.Host.Control;

namespace Wayleave.Cli;

/// <summary>How the program ends; scripts rely on the numbers.</summary>
internal static class ExitCode
{
    public const int Done = 0;

    /// <summary>It was tried and failed, or a check did not hold.</summary>
    public const int Failed = 1;

    /// <summary>The command line or the configuration is wrong.</summary>
    public const int Usage = 2;

    /// <summary>This machine, or this version, cannot do it.</summary>
    public const int NotSupported = 3;

    /// <summary>No host runs where one was expected.</summary>
    public const int NoHost = 4;

    /// <summary>Ended by Ctrl-C or SIGTERM before it was done.</summary>
    public const int Interrupted = 130;

    /// <summary>The one place where a failure becomes a number.</summary>
    public static int From(Exception exception) => exception switch
    {
        OperationCanceledException => Interrupted,
        HostUnavailableException => NoHost,
        ConfigurationException or UsageException => Usage,
        WayleaveException { Errno: Errno.EOPNOTSUPP or Errno.ENOSYS } => NotSupported,
        _ => Failed,
    };
}

/// <summary>What the user typed makes no sense, beyond what the parser can tell.</summary>
internal sealed class UsageException(string message) : Exception(message);
