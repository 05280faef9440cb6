using System.Globalization;
using Wayleave.Core;

namespace Wayleave.Devices.Gpu.Compute;

/// <summary>Who checks the memory that commands name.</summary>
public enum GpuCommandMode
{
    /// <summary>
    /// Commands name handles and offsets; each is checked against the process's buffers before anything runs
    /// (<c>radeon_cs</c>, i915 before page tables). What the job writes, others wait for: WRITE and READ fences.
    /// </summary>
    Parsed,

    /// <summary>
    /// Commands name addresses of the process; the page table decides at every touch, and a fault ends the job. Others
    /// do not wait for it unasked: BOOKKEEP fences (VM_BIND).
    /// </summary>
    Paged,
}

/// <summary>Checks what a program has written into a ring. It works on a copy that the program cannot change.</summary>
internal static class CommandParser
{
    /// <summary>Reads and checks all of it, or says what is wrong with the first command that is refused.</summary>
    /// <param name="process">Whose handles count.</param>
    /// <param name="engine">Who is to run them.</param>
    /// <param name="mode">Whether handles are named at all.</param>
    /// <param name="bytes">Whole commands.</param>
    /// <param name="commands">What there is.</param>
    /// <param name="named">The handles, each once, with what is done to them; none where there are addresses.</param>
    /// <param name="problem">For people; null after Success.</param>
    /// <returns>
    /// <see cref="Errno.EINVAL"/> for garbage and for a range outside a buffer, <see cref="Errno.ENOENT"/> for a handle
    /// that is not the process's, <see cref="Errno.EACCES"/> for more than a handle allows.
    /// </returns>
    public static Errno TryParse(
        GpuProcess process,
        GpuEngineKind engine,
        GpuCommandMode mode,
        ReadOnlySpan<byte> bytes,
        out GpuCommand[] commands,
        out List<(GpuBinding Binding, GpuAccess Access)> named,
        out string? problem)
    {
        (commands, named, problem) = ([], [], null);
        if (bytes.Length == 0 || bytes.Length % GpuCommand.SizeBytes != 0)
        {
            problem = Say($"{bytes.Length} bytes are no commands of {GpuCommand.SizeBytes}");
            return Errno.EINVAL;
        }

        commands = new GpuCommand[bytes.Length / GpuCommand.SizeBytes];
        Span<GpuOperand> operands = stackalloc GpuOperand[3];
        for (int i = 0; i < commands.Length; i++)
        {
            Errno errno = GpuCommand.TryRead(bytes[(i * GpuCommand.SizeBytes)..], out commands[i]);
            int count = 0;
            if (errno == Errno.Success && !engine.Knows(commands[i].Opcode))
            {
                problem = Say($"command {i}: a copy engine does not know {commands[i].Opcode}");
                return Errno.EINVAL;
            }

            if (errno == Errno.Success)
            {
                errno = commands[i].TryGetOperands(operands, out count);
            }

            if (errno != Errno.Success)
            {
                problem = Say($"command {i}: opcode {(int)commands[i].Opcode} with fields that make no sense");
                return errno;
            }

            if (commands[i].Opcode == GpuOpcode.Acquire)
            {
                problem = Say($"command {i}: a job with a fence must not wait for memory that a program writes");
                return Errno.EINVAL;
            }

            foreach (GpuOperand operand in operands[..count])
            {
                errno = Check(process, mode, operand, named, out string? why);
                if (errno != Errno.Success)
                {
                    problem = Say($"command {i}: {why}");
                    return errno;
                }
            }
        }

        return Errno.Success;
    }

    private static Errno Check(
        GpuProcess process,
        GpuCommandMode mode,
        in GpuOperand operand,
        List<(GpuBinding Binding, GpuAccess Access)> named,
        out string? why)
    {
        why = null;
        if (mode == GpuCommandMode.Paged)
        {
            why = operand.Handle == 0 ? null : Say($"handle {operand.Handle} where there are addresses only");
            return why is null ? Errno.Success : Errno.EINVAL;
        }

        if (process.Find(operand.Handle) is not { } binding)
        {
            why = Say($"handle {operand.Handle} is not one of {process.Name}");
            return Errno.ENOENT;
        }

        if (binding is MirrorBinding)
        {
            why = Say($"{binding} may fault, and a job with a fence must not wait for a fault");
            return Errno.EINVAL;
        }

        if (operand.Address >= binding.SizeBytes || operand.LengthBytes > binding.SizeBytes - operand.Address)
        {
            why = Say($"{operand.LengthBytes} bytes at {operand.Address} are outside {binding}");
            return Errno.EINVAL;
        }

        if ((binding.Access & operand.Access) != operand.Access)
        {
            why = Say($"{operand.Access} of {binding} is not allowed");
            return Errno.EACCES;
        }

        int index = named.FindIndex(n => n.Binding == binding);
        if (index < 0)
        {
            named.Add((binding, operand.Access));
        }
        else
        {
            named[index] = (binding, named[index].Access | operand.Access);
        }

        return Errno.Success;
    }

    private static string Say(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
